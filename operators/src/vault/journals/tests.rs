//! Rule 9 of the protocol, as far as a vault keeps it: what a journal is, what a view keeps of it, who has
//! a copy of it before anything is committed.

use super::*;
use crate::ids::ViewNumber;
use crate::snapshot::SnapshotError;
use crate::snapshot::journal::{EntryWriter, write_frame};
use crate::vault::{MemoryVault, Role, Span, StateKind, Vault};

const OWNER: Role = Role { owner: true, backup: false };
const BACKUP: Role = Role { owner: false, backup: true };
const NOTHING: Role = Role { owner: false, backup: false };

/// A vault of two partitions and an input of two shares, one in each; the story is of the first.
struct Story {
    vault: MemoryVault,
    subject: JournalSubject,
}

impl Story {
    fn begin(role: Role) -> Self {
        let subject = JournalSubject { operator: 0, fingerprint: 5, share: 0 };
        let mut story = Story { vault: MemoryVault::new(2), subject };
        story.install(1, None, role);
        story
    }

    fn install(&mut self, view: u64, resume: Option<u64>, role: Role) {
        let role = |partition| if partition == PartitionId(0) { role } else { NOTHING };
        self.vault.install(ViewNumber(view), resume.map(Epoch), &role).unwrap();
        let name = OperatorName::new("words");
        self.subject.operator =
            self.vault.register(self.vault.present(), &name, 5, StateKind::Journals(2)).unwrap();
    }

    fn entry(&self, epoch: u64, record: u64) -> Vec<u8> {
        let mut entry = EntryWriter::default();
        entry.push(&record).unwrap();
        entry.finish(self.subject, Epoch(epoch)).unwrap().1
    }

    /// Frames of these epochs, one record each, and the mark that closes them.
    fn frames(&self, epochs: std::ops::Range<u64>, previous: Option<u64>) -> Vec<u8> {
        let mut frames: Vec<u8> =
            epochs.clone().flat_map(|epoch| self.entry(epoch, 10 * epoch)).collect();
        let mark = JournalMark {
            next: Epoch(epochs.end),
            closed: false,
            previous: previous.map(Epoch),
            entries: epochs.end - epochs.start,
            records: epochs.end,
        };
        write_frame(&mut frames, self.subject, JournalPart::Mark(mark));
        frames
    }

    fn replacement(&self, epochs: std::ops::Range<u64>) -> Vec<u8> {
        let mut frames = Vec::new();
        write_frame(&mut frames, self.subject, JournalPart::Begin);
        frames.extend(self.frames(epochs, None));
        frames
    }

    fn store(&self, view: u64, frames: &[u8]) -> Result<usize, VaultError> {
        self.vault.store_journal(ViewNumber(view), frames)
    }

    /// The epochs in the journal, and the first that is not.
    fn journal(&self) -> (Vec<u64>, Option<u64>) {
        let journal = self
            .vault
            .read_journal(self.vault.present(), self.subject.operator, 0)
            .unwrap()
            .unwrap_or_default();
        let epochs = journal.entries.iter().map(|entry| entry.epoch.0).collect();
        (epochs, journal.next.map(|next| next.0))
    }

    fn replica(&self) -> Option<Span> {
        self.vault.inventory().partitions.get(&PartitionId(0)).and_then(|copies| copies.replica)
    }
}

#[test]
fn a_journal_is_not_cut_at_the_resume_epoch() {
    let mut story = Story::begin(BACKUP);
    assert_eq!(story.store(1, &story.frames(0..6, None)), Ok(7));
    assert_eq!(story.journal(), ((0..6).collect(), Some(6)));
    story.vault.record(ViewNumber(1), Epoch(1)).unwrap();
    assert_eq!(story.journal().0, [2, 3, 4, 5], "what is recorded is let go of");
    story.install(2, Some(3), OWNER);
    assert_eq!(story.journal(), (vec![4, 5], Some(6)));
    story.vault.record(ViewNumber(2), Epoch::END).unwrap();
    assert_eq!(story.journal(), (vec![], Some(6)));
    assert_eq!(story.vault.usage().journal_bytes, 0);
}

#[test]
fn what_came_without_its_mark_is_gone_with_its_view() {
    let mut story = Story::begin(BACKUP);
    story.store(1, &story.frames(0..2, None)).unwrap();
    assert_eq!(story.store(1, &story.entry(2, 7)), Ok(1));
    assert_eq!(story.journal(), (vec![0, 1], Some(2)));
    story.install(2, None, BACKUP);
    // The new owner's journal has another epoch 2.
    story.store(2, &story.replacement(0..3)).unwrap();
    assert_eq!(story.journal(), (vec![0, 1, 2], Some(3)));
    let journal = story
        .vault
        .read_journal(story.vault.present(), story.subject.operator, 0)
        .unwrap()
        .unwrap();
    let (frame, _) = JournalRef::parse(&journal.entries[2].frame).unwrap();
    assert_eq!(frame.records::<u64>().unwrap(), [20]);
}

/// A new owner may fall in the middle of telling its journal: until the end the old one counts, which has
/// all that was acknowledged.
#[test]
fn a_journal_is_replaced_at_once_or_not_at_all() {
    let mut story = Story::begin(BACKUP);
    story.store(1, &story.frames(0..4, None)).unwrap();
    story.install(2, None, BACKUP);
    let replacement = story.replacement(0..6);
    let entry_bytes = story.entry(0, 0).len();
    story
        .store(2, &replacement[..crate::snapshot::journal::JOURNAL_HEADER_BYTES + entry_bytes])
        .unwrap();
    assert_eq!(story.journal(), ((0..4).collect(), Some(4)));
    story.install(3, None, BACKUP);
    assert_eq!(story.journal(), ((0..4).collect(), Some(4)));
    // A journal may become shorter: its owner has no more, and that is acknowledged nowhere.
    story.store(3, &story.replacement(0..3)).unwrap();
    assert_eq!(story.journal(), (vec![0, 1, 2], Some(3)));
}

#[test]
fn a_gap_and_damage_are_refused() {
    let story = Story::begin(BACKUP);
    story.store(1, &story.frames(0..2, None)).unwrap();
    let gap = story.store(1, &story.frames(3..4, Some(3))).unwrap_err();
    assert!(matches!(gap, VaultError::JournalGap { .. }), "{gap}");
    assert!(!gap.is_damage());
    let mut frames = story.frames(2..4, Some(2));
    let last = frames.len() - 1;
    frames[last] ^= 4;
    let damage = story.store(1, &frames).unwrap_err();
    assert!(matches!(damage, VaultError::Snapshot(SnapshotError::Checksum { .. })), "{damage}");
    assert!(damage.is_damage());
    assert_eq!(story.journal(), (vec![0, 1], Some(2)));
    let old = story.store(9, &[]).unwrap_err();
    assert!(matches!(old, VaultError::View { .. }));
}

#[test]
fn a_closed_journal_takes_no_more() {
    let story = Story::begin(OWNER);
    let mut frames = story.entry(5, 1);
    let mark = JournalMark { next: Epoch(5), closed: true, previous: None, entries: 1, records: 1 };
    write_frame(&mut frames, story.subject, JournalPart::Mark(mark));
    story.store(1, &frames).unwrap();
    let journal = story
        .vault
        .read_journal(story.vault.present(), story.subject.operator, 0)
        .unwrap()
        .unwrap();
    assert!(journal.closed && journal.next == Some(Epoch(5)));
    assert!(story.store(1, &story.frames(5..6, Some(5))).is_err());
}

#[test]
fn journals_of_partitions_that_are_elsewhere_are_dropped() {
    let mut story = Story::begin(BACKUP);
    story.store(1, &story.frames(0..2, None)).unwrap();
    story.install(2, None, NOTHING);
    assert_eq!(story.journal(), (vec![], None));
    assert_eq!(story.store(2, &story.replacement(0..2)), Ok(0));
    assert_eq!(story.vault.usage().dropped_frames, 4);
}

/// Before the first commit everybody holds all of nothing, except journals: a node that begins to back a
/// partition has them only once it was told them.
#[test]
fn before_the_first_commit_a_copy_is_one_of_the_journals() {
    let nothing = Some(Span { from: None, through: None });
    for (role, before) in [(BACKUP, nothing), (OWNER, nothing), (NOTHING, None)] {
        let mut story = Story::begin(role);
        assert!(story.vault.inventory().journals);
        assert_eq!(story.replica(), before);
        story.install(2, None, BACKUP);
        assert_eq!(story.replica(), before, "{role:?} is not told the journals yet");
        story.store(2, &story.replacement(0..2)).unwrap();
        assert_eq!(story.replica(), nothing);
        story.install(3, None, OWNER);
        assert_eq!(story.replica(), nothing);
        assert_eq!(story.journal(), (vec![0, 1], Some(2)));
    }
}

#[test]
fn more_than_a_node_keeps_is_refused() {
    let name = OperatorName::new("words");
    let subject =
        JournalSubject { operator: crate::snapshot::operator_id(&name), fingerprint: 5, share: 0 };
    let entry = |length: usize| {
        let mut entry = EntryWriter::default();
        entry.push(&"x".repeat(length)).unwrap();
        entry.finish(subject, Epoch(1)).unwrap().1
    };
    let (first, second) = (entry(100), entry(110));
    // One byte more than both need, as many, and one less.
    for (spare, is_taken) in [(1, true), (0, true), (-1, false)] {
        let limit_bytes = (first.len() + second.len()).checked_add_signed(spare).unwrap();
        let mut journals = Journals::new(1, limit_bytes);
        journals.install(None, vec![true], true);
        let identity = Identity { name: name.clone(), fingerprint: 5, partitions: 1 };
        journals.register(identity).unwrap();
        assert_eq!(journals.take(&JournalRef::parse(&first).unwrap().0), Ok(true));
        let taken = journals.take(&JournalRef::parse(&second).unwrap().0);
        let (held_bytes, bytes) = (first.len(), second.len());
        let full = VaultError::JournalFull {
            operator: name.clone(),
            share: 0,
            bytes,
            held_bytes,
            limit_bytes,
        };
        let text = format!(
            "hold {held_bytes} of at most {limit_bytes} bytes and have no room for {bytes} more of share 0 \
             of input words: let the worker step"
        );
        assert!(full.to_string().contains(&text), "{full}");
        assert_eq!(taken, if is_taken { Ok(true) } else { Err(full) });
    }
}
