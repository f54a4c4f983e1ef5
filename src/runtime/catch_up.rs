//! Catching up: when a generation is built and has read again what had been read before.

use ringfence_operators::fence::generation::Notice;

/// How far the workers of a node are in one view.
#[derive(Debug)]
pub struct CatchUp {
    building: usize,
    sources_behind: usize,
    is_told: bool,
}

impl CatchUp {
    /// That of a view in which nothing has happened yet on so many workers.
    pub fn new(workers: usize) -> Self {
        CatchUp { building: workers, sources_behind: 0, is_told: false }
    }

    /// Whether all workers have built the job.
    pub fn is_built(&self) -> bool {
        self.building == 0
    }

    /// Whether all workers have built the job, and all their sources have caught up.
    pub fn is_over(&self) -> bool {
        self.is_built() && self.sources_behind == 0
    }

    /// Takes in what a worker told. Returns true once: when it [is over](CatchUp::is_over).
    pub fn note(&mut self, notice: &Notice) -> bool {
        match notice {
            Notice::Built { .. } => self.building = self.building.saturating_sub(1),
            Notice::Resumed { replaying, .. } => self.sources_behind += usize::from(*replaying > 0),
            Notice::CaughtUp { .. } => self.sources_behind = self.sources_behind.saturating_sub(1),
            _ => return false,
        }
        self.is_over() && !std::mem::replace(&mut self.is_told, true)
    }
}

#[cfg(test)]
mod tests {
    use ringfence_operators::ids::OperatorName;

    use super::*;

    #[test]
    fn it_is_over_once_all_have_built_and_read_again() {
        let mut catch_up = CatchUp::new(2);
        let (built, behind) =
            (Notice::Built { worker: 0 }, |replaying| Notice::Resumed { records: 7, replaying });
        let caught_up = Notice::CaughtUp { operator: OperatorName::new("lines") };
        let notices = [behind(3), built.clone(), behind(0), built, caught_up.clone(), caught_up];
        assert_eq!(
            notices.map(|notice| catch_up.note(&notice)),
            [false, false, false, false, true, false]
        );
    }
}
