//! The text that a map holds: the description of all maps (`describe`).

/// The one element of the `LAYOUT` map: text, padded with zeroes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LayoutText {
    /// The text.
    pub bytes: [u8; 16 * 1024],
}
layout!(LayoutText = 16384: bytes);

impl LayoutText {
    /// As much of it as there is room for.
    pub fn of(text: &str) -> Self {
        let mut bytes = [0; 16 * 1024];
        bytes.iter_mut().zip(text.as_bytes()).for_each(|(to, from)| *to = *from);
        Self { bytes }
    }
}
