//! What an operator wants of a backend: by order, or in the file.

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admin {
    /// Nothing in particular.
    #[default]
    Ready,
    /// No new connections.
    Drain,
    /// The same, whatever checks say.
    Maint,
}

impl Admin {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Drain, Self::Maint];

    /// The word of status, log, command line and file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}
