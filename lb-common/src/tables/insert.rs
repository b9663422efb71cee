//! What may become of a flow that is to be inserted.

/// Why an entry was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// The key is taken.
    Exists,
    /// The table is full.
    Full,
}

/// Which entry of a flow was not inserted, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The way back, and so neither of them.
    Back(InsertError),
    /// The way there. The way back is in the table.
    There(InsertError),
}
