//! Which known word a misspelt one was meant to be.
//!
//! `reader` asks for its "did you mean"; `secret` asks so that the value of a misspelt password key stays hidden.

/// The known word nearest to `word`, if one is near enough to be meant.
pub fn closest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let normal = |s: &str| s.to_ascii_lowercase().replace('-', "_");
    let word = normal(word);
    let scored = known.iter().map(|k| (distance(&word, &normal(k)), *k));
    let (far, near) = scored.min_by_key(|(d, _)| *d)?;
    (far <= near.len().max(3) / 3).then_some(near)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
