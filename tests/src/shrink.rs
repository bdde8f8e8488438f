//! Makes a failing sequence smaller: greedy delta debugging (Zeller and Hildebrandt, TSE 2002, without the complements).

/// The smallest sequence found for which `fails` still says yes, in at most `tries` questions. `items` itself fails.
pub fn shrink<T: Clone>(items: &[T], mut tries: usize, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut items = items.to_vec();
    let mut piece = items.len().div_ceil(2).max(1);
    loop {
        let mut smaller = false;
        let mut start = 0;
        while start < items.len() && tries > 0 {
            tries -= 1;
            let end = (start + piece).min(items.len());
            let rest = [&items[..start], &items[end..]].concat();
            if fails(&rest) {
                items = rest;
                smaller = true;
            } else {
                start = end;
            }
        }
        match (piece, smaller) {
            _ if tries == 0 => return items,
            (1, false) => return items,
            (1, true) => {}
            _ => piece = piece.div_ceil(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shrink;

    #[test]
    fn what_matters_is_left() {
        let items: Vec<u32> = (0..100).collect();
        let fails = |items: &[u32]| items.contains(&17) && items.contains(&80);
        assert_eq!(shrink(&items, 1000, fails), [17, 80]);
        assert!(fails(&shrink(&items, 10, fails)), "what is left when the tries are used up fails too");
        assert_eq!(shrink(&items, 1000, |_| true), [0u32; 0]);
    }
}
