//! Copies that follow their source on a device with scripted faults. Tests only.

use shared::ids::ComponentId;

use super::{
    DeviceTensor,
    fault::{
        Fault,
        tests::{BYTES, Bench, NoWorker},
    },
    protocol::{Call, Command, Done, EXIT_STICKY, Event, Failure},
};

/// A runner whose device has this fault, following a load.
async fn following(fault: Fault, call: Call) -> Bench {
    let mut bench = Bench::new(Some(fault), Box::new(|| Box::new(NoWorker))).await;
    bench.follow(call).await;
    bench
}

impl Bench {
    async fn follow(&mut self, call: Call) {
        let tensor =
            DeviceTensor { name: "weight".into(), dtype: "U8".into(), shape: vec![BYTES], offset: 0, len: BYTES };
        let (component, bytes) = (ComponentId::generate(), self.lease.bytes());
        let command = Command::Follow { call, component, tensors: vec![tensor], offset: 0, bytes };
        let fd = self.lease.fd_readonly().unwrap();
        self.commands.send(&command, Some(&fd)).await.unwrap();
    }

    /// All that the call follows is there, verified.
    async fn lands(&mut self, call: Call) {
        for (bytes, digest) in [(BYTES / 4, None), (self.lease.bytes(), Some(self.lease.digest().to_string()))] {
            self.commands.send(&Command::Landed { call, bytes, digest }, None).await.unwrap();
        }
    }

    async fn follows_well(&mut self, call: Call) {
        self.follow(call).await;
        self.lands(call).await;
        let answer = self.answer().await;
        assert!(matches!(answer, Some(Ok(Done::Loaded { already: false, .. }))), "{answer:?}");
        self.assert_holds(1);
    }
}

#[tokio::test]
async fn a_followed_copy_that_fails_midway_leaves_nothing_and_is_answered_once() {
    let mut bench = following(Fault::WriteError(BYTES / 2), 1).await;
    bench.lands(1).await;
    let answer = bench.answer().await;
    let Some(Err(Failure::Device { message })) = answer else { panic!("{answer:?}") };
    assert!(message.contains("INVALID_VALUE"), "{message}");
    bench.assert_holds(0);
    // what is said about a call that has ended is for nobody
    bench.lands(1).await;
    bench.follows_well(2).await;
}

#[tokio::test]
async fn f28_a_followed_copy_without_room_is_typed() {
    let mut bench = following(Fault::NoMemory(1), 1).await;
    let answer = bench.answer().await;
    assert!(matches!(answer, Some(Err(Failure::OutOfMemory { available_bytes: 0, .. }))), "{answer:?}");
    bench.assert_holds(0);
    bench.follows_well(2).await;
}

#[tokio::test]
async fn f33_a_sticky_error_ends_the_runner_under_a_followed_copy() {
    let mut bench = following(Fault::Sticky(BYTES / 2), 1).await;
    bench.lands(1).await;
    let end = tokio::task::spawn_blocking(move || bench.runner.join().unwrap()).await.unwrap().unwrap_err();
    assert_eq!(end.code(), EXIT_STICKY);
    while let Ok(event) = bench.events.try_recv() {
        assert!(!matches!(event, Event::Done { .. } | Event::Failed { .. }), "a lost device answered: {event:?}");
    }
}
