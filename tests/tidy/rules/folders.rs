//! Rules about folders: migrations in order and never edited, the README's map complete.

use std::{fs, process::Command};

use crate::Finding;

/// Numbered from 0001 without gaps; files that a commit holds are as that commit made them.
pub(crate) fn migrations() -> Vec<Finding> {
    let folder = crate::root().join("migrations");
    let entries = fs::read_dir(&folder).expect("there are migrations").filter_map(Result::ok);
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with(".sql"));
    names.sort();
    let mut findings = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let number = format!("{:04}_", index + 1);
        if !name.starts_with(&number) {
            findings.push(Finding::new(format!("migrations/{name}"), format!("its name must begin with {number}")));
        }
        if let Some(released) =
            released(name).filter(|released| *released != fs::read(folder.join(name)).unwrap_or_default())
        {
            let what =
                format!("it was released with {} bytes and may not change: write a new migration", released.len());
            findings.push(Finding::new(format!("migrations/{name}"), what));
        }
    }
    findings
}

/// The file as the newest release has it; none before the first release or outside of a checkout.
fn released(name: &str) -> Option<Vec<u8>> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(crate::root()).args(arguments).output().ok()?;
        output.status.success().then_some(output.stdout)
    };
    let tag = String::from_utf8(git(&["describe", "--tags", "--abbrev=0", "--match", "v*"])?).ok()?;
    git(&["show", &format!("{}:migrations/{name}", tag.trim())])
}

/// The README's map names every folder at the top.
pub(crate) fn readme() -> Vec<Finding> {
    let root = crate::root();
    let text = fs::read_to_string(root.join("README.md")).expect("there is a README");
    let folders =
        fs::read_dir(&root).expect("the root can be read").filter_map(Result::ok).filter(|entry| entry.path().is_dir());
    let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let names = names.filter(|name| !name.starts_with('.') && name != "target");
    let missing = names.filter(|name| !text.contains(&format!("`{name}/`")));
    missing.map(|name| Finding::new("README.md", format!("say what `{name}/` is"))).collect()
}
