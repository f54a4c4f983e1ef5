use super::*;

/// A file of this text, with what it is known by.
fn known(text: &str) -> (tempfile::TempDir, PathBuf, Extent, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.txt");
    fs::write(&path, text).unwrap();
    let length = text.len() as u64;
    let extent = Extent { begin: 0, end: length, length };
    let fingerprint = Files::default().get(&path).unwrap().fingerprint(extent).unwrap();
    (directory, path, extent, fingerprint)
}

/// As it would be known on another host.
fn elsewhere(fingerprint: &[u8]) -> Vec<u8> {
    let mut known: Fingerprint = Postcard::decode(fingerprint).unwrap();
    known.place = Some([7; 20]);
    let mut encoded = Vec::new();
    Postcard::encode(&known, &mut encoded).unwrap();
    encoded
}

fn check(path: &Path, extent: Extent, fingerprint: &[u8]) -> Result<(), String> {
    let files = Files::default();
    loop {
        let checked = files.get(path).and_then(|copy| copy.check(extent, fingerprint));
        match checked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(10));
            }
            checked => return checked.map_err(|error| error.to_string()),
        }
    }
}

fn assert_told(result: Result<(), String>, text: &str) {
    let told = result.unwrap_err();
    assert!(told.contains(text) && told.contains("in.txt"), "{text:?} is not in {told}");
}

#[test]
fn on_one_host_any_change_but_an_append_is_told() {
    let text = "0123456789\n".repeat(2000);
    let (_directory, path, extent, fingerprint) = known(&text);
    check(&path, extent, &fingerprint).unwrap();
    let append = |path: &Path| fs::write(path, text.clone() + "more").unwrap();
    append(&path);
    check(&path, extent, &fingerprint).unwrap();

    // In the middle, where no digest sees it.
    let (_directory, path, extent, fingerprint) = known(&text);
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"x", extent.length / 2).unwrap();
    assert_told(check(&path, extent, &fingerprint), "written to in place");

    let (directory, path, extent, fingerprint) = known(&text);
    let aside = directory.path().join("aside");
    fs::write(&aside, &text).unwrap();
    fs::rename(aside, &path).unwrap();
    assert_told(check(&path, extent, &fingerprint), "replaced by another file");

    let (_directory, path, extent, fingerprint) = known(&text);
    fs::write(&path, "short").unwrap();
    assert_told(check(&path, extent, &fingerprint), "became shorter");

    let (_directory, path, extent, fingerprint) = known(&text);
    append(&path);
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"x", extent.length - 3).unwrap();
    assert_told(check(&path, extent, &fingerprint), "has other bytes here");

    let (_directory, path, extent, fingerprint) = known(&text);
    fs::remove_file(&path).unwrap();
    assert_told(check(&path, extent, &fingerprint), "cannot read");
}

#[test]
fn between_hosts_length_and_ends_count() {
    let text = "0123456789\n".repeat(2000);
    let (_directory, _path, extent, fingerprint) = known(&text);
    let fingerprint = elsewhere(&fingerprint);
    let copy = |text: String| {
        let (directory, path, ..) = known(&text);
        let checked = check(&path, extent, &fingerprint);
        drop(directory);
        checked
    };
    copy(text.clone()).unwrap();
    copy(text.clone() + "more").unwrap();
    assert_told(copy(text[..text.len() - 1].to_owned()), "and had 22000 when the run began");
    for at in [0, 4095, text.len() - 4096, text.len() - 1] {
        let mut other = text.clone();
        other.replace_range(at..=at, "x");
        assert_told(copy(other), "has other bytes here");
    }
}

#[test]
fn an_open_file_that_was_removed_is_still_the_one() {
    let (_directory, path, extent, fingerprint) = known("text\n");
    let files = Files::default();
    let copy = files.get(&path).unwrap();
    fs::remove_file(&path).unwrap();
    copy.check(extent, &fingerprint).unwrap();
    files.get(&path).unwrap().check(extent, &fingerprint).unwrap();
    // Another one under its name is told.
    fs::write(&path, "text\n").unwrap();
    let told = copy.check(extent, &fingerprint).unwrap_err().to_string();
    assert!(told.contains("replaced by another file"), "{told}");
}

#[test]
fn what_a_file_was_known_by_outlives_its_handle() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::default();
    let path = |number: usize| directory.path().join(format!("in.txt{number}"));
    for number in 0..2 * KEPT_MAX {
        fs::write(path(number), "text").unwrap();
        files.get(&path(number)).unwrap();
    }
    let last = path(2 * KEPT_MAX - 1);
    fs::write(&last, "te").unwrap();
    let told = files.get(&last).unwrap().check_unchanged().unwrap_err().to_string();
    assert!(told.contains("became shorter"), "{told}");
}
