//! The cores of this machine that workers are held to.

/// The cores that this process may use; none where the system does not say.
pub fn allowed() -> Vec<usize> {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .map(|list| parse(list.trim()))
        .unwrap_or_default()
}

/// The numbers in a list such as `0-3,8`.
fn parse(list: &str) -> Vec<usize> {
    let part = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.trim().parse::<usize>().ok()?..=to.trim().parse::<usize>().ok()?)
    };
    list.split(',').filter_map(part).flatten().collect()
}

/// `count` of `cores` that are not in `taken`, side by side where there are such; none where there are too few.
pub(super) fn choose(cores: &[usize], taken: &[usize], count: usize) -> Option<Vec<usize>> {
    let free: Vec<usize> = cores.iter().copied().filter(|core| !taken.contains(core)).collect();
    let together =
        free.windows(count.max(1)).find(|window| window[window.len() - 1] - window[0] + 1 == window.len());
    match together {
        Some(window) if count > 0 => Some(window.to_vec()),
        _ => (count > 0 && free.len() >= count).then(|| free[..count].to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read_and_handed_out() {
        assert_eq!(parse("0-3,8,10-11"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse(""), Vec::<usize>::new());
        let cores = [0, 1, 2, 3, 8];
        assert_eq!(choose(&cores, &[], 2), Some(vec![0, 1]));
        assert_eq!(choose(&cores, &[1], 2), Some(vec![2, 3]), "side by side");
        assert_eq!(choose(&cores, &[1, 2], 2), Some(vec![0, 3]), "or else apart");
        assert_eq!(choose(&cores, &[0, 1, 2], 3), None);
        assert_eq!(choose(&cores, &[], 0), None);
    }
}
