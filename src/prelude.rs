//! What a job imports: our verbs, timely's, and the few types that go with them.

pub use crate::report::FailureReport;
pub use ringfence_operators::prelude::*;
pub use timely::dataflow::operators::vec::{Broadcast as _, Filter as _, Map as _, Partition as _};
pub use timely::dataflow::operators::{
    Capture as _, Concat as _, Concatenate as _, ConnectLoop as _, Enter as _, Exchange as _,
    Feedback as _, Inspect as _, Leave as _, LoopVariable as _, OkErr as _, Operator as _,
    Probe as _, ToStream as _,
};
