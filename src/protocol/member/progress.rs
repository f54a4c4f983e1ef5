//! Progress: views that follow each other without a commit in between are a failure of the job.
//!
//! One failure in the middle of a recovery, or three, is what a cluster must live through. But where every
//! view ends before anything was committed in it, something in the job or around it is the reason, and to
//! go on for ever would hide it. All members see the same views and count the same.

use ringfence_operators::ids::ViewNumber;

use super::super::message::ProtocolError;
use super::super::view::View;

/// The default for how many views may follow each other without a commit in between.
pub const VIEWS_WITHOUT_COMMIT_MAX: u32 = 10;

/// How many views in a row have ended without a commit, and why the last did.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    fruitless: u32,
    ended: Option<(ViewNumber, String)>,
}

impl Progress {
    /// Notes why a view ends; the first reason counts.
    pub(super) fn ends_because(&mut self, view: ViewNumber, why: &str) {
        if self.ended.as_ref().is_none_or(|(ended, _)| *ended < view) {
            self.ended = Some((view, why.to_owned()));
        }
    }

    /// Notes that `next` follows `previous`; returns the error that ends the job if too many did in vain.
    pub(super) fn follows(
        &mut self,
        previous: &View,
        next: &View,
        views_max: u32,
    ) -> Option<ProtocolError> {
        // What was ended on purpose was not in vain, and has not come to anything either.
        if next.planned {
            return None;
        }
        // A view resumes from the last commit: the same epoch again means that there was none.
        self.fruitless = if next.resume == previous.resume { self.fruitless + 1 } else { 0 };
        if self.fruitless <= views_max {
            return None;
        }
        let known = self.ended.as_ref().filter(|(ended, _)| *ended == previous.number);
        let why = known.map_or("another member stopped it", |(_, why)| why);
        Some(ProtocolError::NoProgress {
            views: self.fruitless,
            last: previous.number,
            why: why.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use ringfence_operators::ids::{Epoch, Incarnation, NodeId};

    use super::super::super::view::{ClusterShape, Member};
    use super::*;

    fn view(number: u64, resume: Option<u64>) -> View {
        let shape = ClusterShape { nodes: 1, workers_per_node: 1, partitions: 4, backups: 0 };
        let member = Member {
            node: NodeId(0),
            incarnation: Incarnation(1),
            address: "a:1".to_owned(),
            evidence: None,
        };
        let mut view = View::first("run", vec![member], &shape);
        (view.number, view.resume) = (ViewNumber(number), resume.map(Epoch));
        view
    }

    #[test]
    fn views_in_vain_end_the_job_and_a_commit_begins_anew() {
        let mut progress = Progress::default();
        let mut follows = |number, before, after| {
            progress.ends_because(ViewNumber(number), "a link broke");
            progress.ends_because(ViewNumber(number), "and another, later");
            progress.follows(&view(number, before), &view(number + 1, after), 2)
        };
        assert_eq!(follows(1, None, None), None);
        assert_eq!(follows(2, None, None), None);
        assert_eq!(follows(3, None, Some(4)), None, "something was committed");
        assert_eq!(follows(4, Some(4), Some(4)), None);
        assert_eq!(follows(5, Some(4), Some(4)), None);
        let error = follows(6, Some(4), Some(4)).expect("three views in vain");
        let text = error.to_string();
        assert!(text.contains("3 views") && text.contains("view 6"), "{text}");
        assert!(text.contains("a link broke") && !text.contains("later"), "{text}");
    }
}
