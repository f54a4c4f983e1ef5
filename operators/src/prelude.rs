//! What a job imports: the verbs and the few types that go with them.

pub use crate::data::Data;
pub use crate::differential::{
    AsCollectionFenced as _, FencedCollection, FencedSession, FencedVariable, HydratedCollection,
    HydratedVariable,
};
pub use crate::feedback::{ConnectLoopFenced as _, FeedbackFenced as _};
pub use crate::fence::{Fence, HasFence as _};
pub use crate::input::{FencedInput, resume_in_step};
pub use crate::inspect::InspectFenced as _;
pub use crate::origins::Vouched as _;
pub use crate::sink::{LineFiles, Sink, SinkFenced as _};
pub use crate::source::{Reader, Share, Source, TextFiles, ToStreamFenced as _, per_share};
pub use crate::stateful::{At, Event, Give, Stateful as _};
pub use crate::time::{EpochTime, FencedTime};
#[doc(hidden)]
pub use crate::vectors::OnlyVectors as _;
pub use crate::wrap::{OperatorFenced as _, State};
