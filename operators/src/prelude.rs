//! What a job imports: the verbs and the few types that go with them.

pub use crate::data::Data;
pub use crate::differential::{
    AsCollectionFenced as _, FencedCollection, FencedSession, FencedVariable, HydratedCollection,
    HydratedVariable,
};
pub use crate::fence::origins::Vouched as _;
pub use crate::fence::{Fence, HasFence as _};
pub use crate::ids::Share;
pub use crate::time::{EpochTime, FencedTime};
pub use crate::verbs::feedback::{ConnectLoopFenced as _, FeedbackFenced as _};
pub use crate::verbs::input::{FencedInput, resume_in_step};
pub use crate::verbs::inspect::InspectFenced as _;
pub use crate::verbs::sink::{LineFiles, Sink, SinkFenced as _};
pub use crate::verbs::source::{Reader, Source, TextFiles, ToStreamFenced as _, per_share};
pub use crate::verbs::stateful::{At, Event, Give, Stateful as _};
#[doc(hidden)]
pub use crate::verbs::vectors::OnlyVectors as _;
pub use crate::wrap::{OperatorFenced as _, State};
