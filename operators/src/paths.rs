//! Paths as text.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// A path as text, without loss: each byte that is not plain text, or is a `%`, is written as `%` and two
/// digits.
pub(crate) fn shown(path: &Path) -> String {
    let mut text = String::new();
    let escape = |text: &mut String, bytes: &[u8]| {
        bytes.iter().for_each(|byte| text.push_str(&format!("%{byte:02x}")));
    };
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for char in chunk.valid().chars() {
            if char == '%' || char.is_control() {
                escape(&mut text, char.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(char);
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// The path that [`shown`] wrote.
pub(crate) fn path_of(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    Some(OsString::from_vec(bytes).into())
}

/// The canonical name of what is, or would be, at `path`: absolute, and without links as far as it exists.
pub(crate) fn resolved(path: &Path) -> std::io::Result<PathBuf> {
    let mut resolved = PathBuf::new();
    for component in std::path::absolute(path)?.components() {
        match component {
            Component::ParentDir => drop(resolved.pop()),
            component => resolved.push(component),
        }
        if let Ok(real) = resolved.canonicalize() {
            resolved = real;
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_path_is_read_as_it_was_written(bytes: Vec<u8>) {
            let path = PathBuf::from(OsString::from_vec(bytes));
            let text = shown(&path);
            prop_assert!(!text.contains(char::is_control), "{text:?}");
            prop_assert_eq!(path_of(&text), Some(path));
        }
    }

    #[test]
    fn plain_names_are_written_as_they_are() {
        assert_eq!(shown(Path::new("a b/c:d.txt")), "a b/c:d.txt");
        assert_eq!(shown(Path::new("100%\n")), "100%25%0a");
        assert_eq!([path_of("%"), path_of("%0"), path_of("%zz")], [None, None, None]);
    }

    #[test]
    fn all_names_of_one_place_resolve_to_one() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        std::fs::create_dir(base.join("real")).unwrap();
        std::os::unix::fs::symlink(base.join("real"), base.join("link")).unwrap();
        let wanted = base.join("real/new/out");
        for path in
            ["real/new/out", "link/new/out", "./real/../link/new/./out", "link/x/../new/out/"]
        {
            assert_eq!(resolved(&base.join(path)).unwrap(), wanted, "{path}");
        }
    }
}
