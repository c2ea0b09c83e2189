//! What a cap counts, shared by all that spend from it at the same time.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use anyhow::Result;

use super::journal::Contents;
use super::settings::RemoteTeacher;
use super::spend::{Tokens, forbids};

/// Tokens spent, and those that requests in flight may still cost.
#[derive(Debug, Default)]
pub struct Purse(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    spent: Tokens,
    reserved: Tokens,
}

/// A cap forbids a request.
pub(super) struct Refused {
    pub reason: String,
    /// Requests are in flight that may turn out cheaper than what is held for them.
    pub in_flight: bool,
}

impl Purse {
    /// A purse from which `spent` was spent before.
    pub(super) fn new(spent: Tokens) -> Purse {
        Purse(Mutex::new(Held { spent, reserved: Tokens::default() }))
    }

    /// One purse for all that will be asked into these folders, or was: the journals say
    /// what. Nobody may be writing them.
    pub fn open(folders: &[PathBuf]) -> Result<Purse> {
        let mut spent = Tokens::default();
        for dir in folders {
            spent.add(Contents::look(dir)?.spent());
        }
        Ok(Purse::new(spent))
    }

    pub fn spent(&self) -> Tokens {
        self.held().spent
    }

    /// Sets the most that a request can cost aside, if the caps leave as much.
    pub(super) fn reserve(&self, teacher: &RemoteTeacher, most: Tokens) -> Result<(), Refused> {
        let mut held = self.held();
        let mut all = held.spent;
        all.add(held.reserved);
        if let Some(reason) = forbids(teacher, all, most) {
            return Err(Refused { reason, in_flight: held.reserved != Tokens::default() });
        }
        held.reserved.add(most);
        Ok(())
    }

    /// Takes back what was set aside for a request, which cost `spent`.
    pub(super) fn settle(&self, most: Tokens, spent: Tokens) {
        let mut held = self.held();
        held.reserved.take(most);
        held.spent.add(spent);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}
