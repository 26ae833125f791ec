//! Candidates: what operators have changed and not committed. No file is touched here.
//!
//! A candidate is its text, what it began with, and the changes since. When others commit meanwhile, the changes are
//! made again on top of that; nobody undoes unknowingly what somebody else has done.

use std::collections::HashMap;
use std::sync::Arc;

use super::edit::{self, EditError};
use crate::config::FILE_MAX_BYTES;

/// Operators with open candidates. A daemon with more has forgotten ones.
const CANDIDATES_MAX: usize = 16;
/// Changes of one candidate that can be made again.
const CHANGES_MAX: usize = 4096;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Set {
        path: String,
        value: String,
    },
    Delete {
        path: String,
    },
    /// The whole text: loaded, or taken from the history.
    Replace(Arc<str>),
}

impl Change {
    fn make(&self, text: &str) -> Result<String, EditError> {
        match self {
            Self::Set { path, value } => edit::set(text, path, value),
            Self::Delete { path } => edit::delete(text, path),
            Self::Replace(text) => Ok(text.to_string()),
        }
    }
}

/// Why a candidate stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CandidateError {
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error("a configuration has at most {FILE_MAX_BYTES} bytes")]
    TooLong,
    #[error("a candidate has at most {CHANGES_MAX} changes; commit it, or load a whole text")]
    TooManyChanges,
    #[error("{CANDIDATES_MAX} operators have candidates open; one of them has to commit or discard first")]
    TooMany,
    #[error("the whole text was replaced, so the changes cannot be made again; `discard`, and load it anew")]
    Replaced,
    #[error("a change does not fit what others have committed: {0}; `discard`, and make it anew")]
    Unfit(EditError),
}

/// One operator's.
#[derive(Clone, Debug)]
pub struct Candidate {
    base: Arc<str>,
    text: String,
    changes: Vec<Change>,
    /// Pieces of a text that is being loaded.
    incoming: String,
}

impl Candidate {
    fn new(base: Arc<str>) -> Self {
        Self { text: base.to_string(), base, changes: Vec::new(), incoming: String::new() }
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether others have committed since it began.
    #[must_use]
    pub fn is_stale(&self, running: &str) -> bool {
        *self.base != *running
    }

    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.incoming.is_empty() && *self.base == *self.text
    }

    #[must_use]
    pub fn changes(&self) -> usize {
        self.changes.len()
    }

    fn change(&mut self, change: Change) -> Result<(), CandidateError> {
        let text = change.make(&self.text)?;
        if !fits(text.len()) {
            return Err(CandidateError::TooLong);
        }
        if self.changes.len() >= CHANGES_MAX {
            return Err(CandidateError::TooManyChanges);
        }
        if matches!(change, Change::Replace(_)) {
            self.changes.clear();
        }
        self.text = text;
        self.changes.push(change);
        Ok(())
    }

    /// # Errors
    /// When the path or the value is wrong.
    pub fn set(&mut self, path: &str, value: &str) -> Result<(), CandidateError> {
        self.change(Change::Set { path: path.to_owned(), value: value.to_owned() })
    }

    /// # Errors
    /// When nothing stands there.
    pub fn delete(&mut self, path: &str) -> Result<(), CandidateError> {
        self.change(Change::Delete { path: path.to_owned() })
    }

    /// The whole text becomes another.
    ///
    /// # Errors
    /// When it is too long.
    pub fn replace(&mut self, text: &str) -> Result<(), CandidateError> {
        self.change(Change::Replace(text.into()))
    }

    /// A piece of a text that takes this one's place when the last piece has come.
    ///
    /// # Errors
    /// When it is too long.
    pub fn load(&mut self, piece: &str, more: bool) -> Result<(), CandidateError> {
        if !fits(self.incoming.len().saturating_add(piece.len())) {
            self.incoming.clear();
            return Err(CandidateError::TooLong);
        }
        self.incoming.push_str(piece);
        if more {
            return Ok(());
        }
        let text = std::mem::take(&mut self.incoming);
        self.replace(&text)
    }

    /// Makes the changes again on top of what is in force now.
    ///
    /// # Errors
    /// When one does not fit; then all stays as it was.
    pub fn update(&mut self, running: &Arc<str>) -> Result<(), CandidateError> {
        if !self.is_stale(running) {
            return Ok(());
        }
        let mut text = running.to_string();
        for change in &self.changes {
            if matches!(change, Change::Replace(_)) {
                return Err(CandidateError::Replaced);
            }
            text = change.make(&text).map_err(CandidateError::Unfit)?;
        }
        (self.base, self.text) = (Arc::clone(running), text);
        Ok(())
    }
}

fn fits(length: usize) -> bool {
    u64::try_from(length).is_ok_and(|length| length <= FILE_MAX_BYTES)
}

/// Those of all operators, by user id.
#[derive(Debug, Default)]
pub struct Candidates(HashMap<u32, Candidate>);

impl Candidates {
    /// The operator's candidate if there is one.
    #[must_use]
    pub fn get(&self, uid: u32) -> Option<&Candidate> {
        self.0.get(&uid)
    }

    /// The operator's candidate, begun with what is in force where there is none.
    ///
    /// # Errors
    /// When too many are open.
    pub fn open(&mut self, uid: u32, running: &Arc<str>) -> Result<&mut Candidate, CandidateError> {
        // Whoever has changed nothing holds no place, and begins with what is in force now.
        self.0.retain(|_, candidate| !candidate.is_clean());
        if !self.0.contains_key(&uid) && self.0.len() >= CANDIDATES_MAX {
            return Err(CandidateError::TooMany);
        }
        Ok(self.0.entry(uid).or_insert_with(|| Candidate::new(Arc::clone(running))))
    }

    /// Whether there was one.
    pub fn discard(&mut self, uid: u32) -> bool {
        self.0.remove(&uid).is_some_and(|candidate| !candidate.is_clean())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(text: &str) -> Arc<str> {
        text.into()
    }

    #[test]
    fn two_operators_do_not_see_each_others_changes() {
        let mut all = Candidates::default();
        let base = running("[limits]\nsessions = 1\n");
        all.open(1, &base).unwrap().set("limits.sessions", "2").unwrap();
        assert!(all.open(2, &base).unwrap().text().contains("= 1"));
        assert!(all.get(1).unwrap().text().contains("= 2"));
    }

    #[test]
    fn changes_are_made_again_on_top_of_what_others_have_committed() {
        let mut all = Candidates::default();
        let base = running("[limits]\nsessions = 1\n");
        let mine = all.open(1, &base).unwrap();
        mine.set("limits.connections", "50").unwrap();
        let theirs = running("[limits]\nsessions = 9\n");
        assert!(mine.is_stale(&theirs));
        mine.update(&theirs).unwrap();
        assert_eq!(mine.text(), "[limits]\nsessions = 9\nconnections = 50\n");
        assert!(!mine.is_stale(&theirs));
    }

    #[test]
    fn a_change_that_does_not_fit_any_more_is_told_and_nothing_happens() {
        let mut all = Candidates::default();
        let base = running("[limits]\nsessions = 1\n");
        let mine = all.open(1, &base).unwrap();
        mine.delete("limits.sessions").unwrap();
        let before = mine.text().to_owned();
        let theirs = running("[limits]\n");
        assert!(matches!(mine.update(&theirs), Err(CandidateError::Unfit(_))));
        assert_eq!(mine.text(), before);
        mine.replace("[limits]\nsessions = 3\n").unwrap();
        assert_eq!(mine.update(&theirs), Err(CandidateError::Replaced));
    }

    #[test]
    fn candidates_are_bounded_and_clean_ones_hold_no_place() {
        let mut all = Candidates::default();
        let base = running("");
        for uid in 0..16 {
            all.open(uid, &base).unwrap().set("log.level", "debug").unwrap();
        }
        assert!(matches!(all.open(99, &base), Err(CandidateError::TooMany)));
        assert!(all.discard(3) && !all.discard(3));
        all.open(99, &base).unwrap();
        all.open(100, &base).unwrap();
    }

    #[test]
    fn a_text_comes_in_pieces_and_is_bounded() {
        let mut all = Candidates::default();
        let mine = all.open(1, &running("")).unwrap();
        mine.load("[log]\nlev", true).unwrap();
        assert_eq!(mine.text(), "");
        mine.load("el = \"info\"\n", false).unwrap();
        assert_eq!(mine.text(), "[log]\nlevel = \"info\"\n");
        let piece = "#".repeat(1 << 20);
        let refused = (0..5).find_map(|_| mine.load(&piece, true).err());
        assert_eq!(refused, Some(CandidateError::TooLong));
        assert_eq!(mine.text(), "[log]\nlevel = \"info\"\n");
    }
}
