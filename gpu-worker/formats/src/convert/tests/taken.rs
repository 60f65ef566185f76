//! Goals that somebody else takes: theirs stays, and a job removes its own work alone.

use super::*;

/// Somebody takes the name while the model is written: theirs stays, and nothing of ours.
#[test]
fn a_name_that_is_taken_meanwhile_leaves_nothing_of_what_was_written() {
    let dir = TempDir::new().unwrap();
    let path = checkpoint(dir.path(), &SD15, &plain);
    for to in ["out.safetensors", "folder"] {
        let layout = if to == "folder" { Layout::Diffusers } else { Layout::SingleFile };
        let plan = Plan::new(&open(&path), None, &request(layout, Precision::Keep)).unwrap();
        let place = Place::open(dir.path(), to).unwrap();
        let mut take = |_| {
            fs::write(place.path(), "theirs").unwrap();
            ControlFlow::Continue(())
        };
        // nor is it what may be overwritten: nothing was there
        for overwrite in [false, true] {
            let job = Job { overwrite, ..job(&plan, &place, &|| true) };
            let refused = write(&job, &mut take);
            assert!(matches!(refused, Err(ConvertError::Write(WriteError::Exists { .. }))), "{refused:?}");
            assert_eq!(fs::read(place.path()).unwrap(), b"theirs");
            fs::remove_file(place.path()).unwrap();
        }
        // what was ours at first and is theirs at last
        write(&job(&plan, &place, &|| true), &mut go).unwrap();
        let mut take = |_| {
            crate::write::remove(&place.path()).unwrap();
            fs::write(place.path(), "theirs").unwrap();
            ControlFlow::Continue(())
        };
        let later = Job { overwrite: true, job: "later".into(), ..job(&plan, &place, &|| true) };
        let refused = write(&later, &mut take);
        assert!(matches!(refused, Err(ConvertError::Write(WriteError::NotOurs { .. }))), "{refused:?}");
        assert_eq!(fs::read(place.path()).unwrap(), b"theirs");
    }
    assert_eq!(listing(dir.path()), ["folder", "m.safetensors", "out.safetensors"]);
}

#[test]
fn a_job_takes_away_its_own_work_and_no_other() {
    let dir = TempDir::new().unwrap();
    let path = checkpoint(dir.path(), &SD15, &plain);
    for to in ["out.safetensors", "folder"] {
        let layout = if to == "folder" { Layout::Diffusers } else { Layout::SingleFile };
        let (_, plan, _) = convert(&path, to, &request(layout, Precision::Keep));
        let place = Place::open(dir.path(), to).unwrap();
        assert!(!withdraw(&place, "another").unwrap() && place.path().exists());
        assert!(withdraw(&place, "job").unwrap() && !place.path().exists(), "{}", plan.bytes());
        assert!(!withdraw(&place, "job").unwrap(), "nothing is there");
    }
    let place = Place::open(dir.path(), "m.safetensors").unwrap();
    assert!(!withdraw(&place, "job").unwrap());
    assert_eq!(listing(dir.path()), ["m.safetensors"]);
}
