//! The plain verbs that a fenced collection does not have: they exist so that the compiler says what to use
//! instead.

use differential_dataflow::difference::Abelian;
use timely::progress::Timestamp;

use super::collection::FencedCollection;

/// A collection that may lose, after a failure, what a verb has kept. No fenced collection is one.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "this verb keeps something from one epoch to the next, and is not protected",
    label = "after a failure it would begin with nothing",
    note = "use the verb whose name ends in `_fenced`, with a name for its state: `count_fenced(\"counts\")`",
    note = "or use differential's own operators behind an edge that survives: `.fenced(\"edge\").count()`"
)]
pub trait MayForget {}

macro_rules! missing {
    ($($verb:ident($($argument:ident),*)),* $(,)?) => {
        impl<'scope, T: Timestamp, D: Clone + 'static, R: Clone + 'static>
            FencedCollection<'scope, T, D, R>
        {
            $(
                /// This verb is not available: use the verb of this name that ends in `_fenced`.
                #[doc(hidden)]
                #[allow(non_camel_case_types)]
                pub fn $verb<$($argument),*>(self, $($argument: $argument),*) -> Self
                where
                    Self: MayForget,
                {
                    $(let _ = $argument;)*
                    self
                }
            )*
        }
    };
}

missing!(
    count(),
    distinct(),
    reduce(logic),
    threshold(logic),
    join(other),
    join_map(other, logic),
    semijoin(other),
    antijoin(other),
    arrange_by_key(),
    arrange_by_self(),
);

/// A multiplicity that can be negated.
///
/// Implemented for every type that is `Abelian`; there is nothing to implement by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the multiplicity of what is derived: it has no inverse",
    note = "what a protected operator derives is taken back when its input changes, so its multiplicities \
            implement differential's `Abelian`, as `isize` does: put a least or greatest value into the record"
)]
pub trait Invertible: Abelian {}

impl<R: Abelian> Invertible for R {}
