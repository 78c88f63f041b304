//! Every hostile case of a finished issue has a test whose name begins with its number.

use std::{fs, path::Path};

/// The cases of the list that belong to finished issues. It only grows.
const FINISHED: &[u32] = &[
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30, 31, 32,
    33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 44,
];

#[test]
fn every_finished_case_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    read_all(&root.join("src"), &mut sources);
    read_all(&root.join("tests"), &mut sources);
    let has_none = |case: &&u32| !sources.contains(&format!("fn case_{case}_"));
    let missing: Vec<&u32> = FINISHED.iter().filter(has_none).collect();
    assert!(missing.is_empty(), "cases without a test: {missing:?}");
}

fn read_all(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
