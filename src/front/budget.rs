//! What the partly received requests of a core may hold together. It does not know what they are.

use std::cell::Cell;
use std::rc::Rc;

use crate::api::status::{Code, Status};

/// A number of bytes that many share.
#[derive(Clone, Debug)]
pub struct Budget {
    used: Rc<Cell<usize>>,
    bytes_max: usize,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Budget {
        Budget { used: Rc::default(), bytes_max }
    }

    /// Bytes held now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.get()
    }

    pub(super) fn share(&self) -> Held {
        Held { budget: self.clone(), bytes: 0 }
    }
}

/// One holder's share, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    budget: Budget,
    bytes: usize,
}

impl Held {
    /// Holds so many bytes more.
    ///
    /// # Errors
    /// When the budget is used up.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), Status> {
        let used = self.budget.used.get() + bytes;
        if used > self.budget.bytes_max {
            let text = "etcdserver: too many requests";
            return Err(Status::fixed(Code::ResourceExhausted, text));
        }
        self.budget.used.set(used);
        self.bytes += bytes;
        Ok(())
    }

    pub(super) fn release(&mut self) {
        self.budget.used.set(self.budget.used.get() - std::mem::take(&mut self.bytes));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}
