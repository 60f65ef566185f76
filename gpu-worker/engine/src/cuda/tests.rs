//! `cuda:N` over the scripted driver: the contract, and what becomes of the driver's answers.

use super::*;
use crate::{contract, probe, scripted::within};

const MIB: u64 = 1 << 20;

#[test]
fn a_machine_without_the_driver_says_so_and_does_not_panic() {
    if driver_present() {
        println!("skipped: a CUDA driver is here");
        return;
    }
    let error = CudaDevice::open(0, 0).unwrap_err();
    assert!(error.to_string().contains("`cuda:0` cannot be opened"), "{error}");
}

#[test]
fn the_contract_holds_over_the_scripted_driver() {
    within("cuda::tests::the_contract_holds_over_the_scripted_driver", "total 134217728\n", |_| {
        let mut device = CudaDevice::open(0, 0).unwrap();
        assert_eq!(device.facts.uuid.as_deref(), Some("GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"));
        assert_eq!((device.facts.product.as_str(), device.facts.capacity_bytes), ("Scripted Device 0", 128 * MIB));
        contract::check(&mut device).unwrap();
        drop(device);
        contract::check(&mut CudaDevice::open(0, 32 * MIB).unwrap()).unwrap();
    });
}

#[test]
fn devices_are_counted_and_one_that_is_not_there_is_said() {
    within("cuda::tests::devices_are_counted_and_one_that_is_not_there_is_said", "devices 2\n", |script| {
        let report = probe();
        let names: Vec<_> = report.devices.iter().map(|device| device.name.as_str()).collect();
        assert_eq!((report.available, names), (true, vec!["cuda:0", "cuda:1"]));
        let error = CudaDevice::open(2, 0).unwrap_err();
        assert!(error.to_string().contains("the driver shows 2 devices"), "{error}");
        script.say("code.cuInit 803\n");
        assert!(probe().reason.unwrap().contains("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"));
    });
}

#[test]
fn f28_memory_that_others_took_is_out_of_memory_and_the_device_works_on() {
    within(
        "cuda::tests::f28_memory_that_others_took_is_out_of_memory_and_the_device_works_on",
        "total 67108864\n",
        |script| {
            let mut device = CudaDevice::open(0, 0).unwrap();
            script.say("total 67108864\ntaken 60000000\n");
            match device.allocate(32 * MIB) {
                Err(DeviceError::OutOfMemory { needed_bytes, available_bytes, capacity_bytes }) => {
                    assert_eq!((needed_bytes, capacity_bytes), (32 * MIB, 64 * MIB));
                    assert!(available_bytes < 8 * MIB, "{available_bytes}");
                }
                other => panic!("{other:?}"),
            }
            // what others took is a difference that the ledger does not explain
            let memory = device.memory().unwrap();
            assert_eq!((memory.used_bytes, memory.system_bytes), (0, 60_000_000));
            script.say("total 67108864\n");
            let slab = device.allocate(32 * MIB).unwrap();
            assert_eq!(device.free(slab).unwrap(), 32 * MIB);
        },
    );
}

#[test]
fn f33_an_error_that_poisons_the_context_is_sticky_and_one_that_does_not_is_not() {
    within(
        "cuda::tests::f33_an_error_that_poisons_the_context_is_sticky_and_one_that_does_not_is_not",
        "fail.cuMemcpyHtoDAsync_v2 2 1\n",
        |script| {
            let mut device = CudaDevice::open(0, 0).unwrap();
            let slab = device.allocate(40 * MIB).unwrap();
            let data = vec![7; 40 << 20];
            let refused = device.write(slab, 0, &data).unwrap_err();
            assert!(matches!(refused, DeviceError::Driver { .. }), "{refused}");
            device.write(slab, 0, &data).unwrap();
            device.synchronize().unwrap();
            script.say("code.cuMemcpyHtoDAsync_v2 700\n");
            let lost = device.write(slab, 0, &data).unwrap_err();
            assert!(matches!(lost, DeviceError::Sticky { .. }), "{lost}");
            assert!(lost.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{lost}");
            for error in [device.memory().unwrap_err(), device.free(slab).unwrap_err()] {
                assert!(matches!(error, DeviceError::Sticky { .. }), "{error}");
            }
        },
    );
}

#[test]
fn a_device_that_is_dropped_with_copies_under_way_gives_everything_back() {
    within(
        "cuda::tests::a_device_that_is_dropped_with_copies_under_way_gives_everything_back",
        "total 67108864\n",
        |_| {
            let mut device = CudaDevice::open(0, 0).unwrap();
            let slab = device.allocate(40 * MIB).unwrap();
            device.write(slab, 0, &vec![7; 40 << 20]).unwrap();
            drop(device);
            let again = CudaDevice::open(0, 0).unwrap();
            assert_eq!(again.facts.capacity_bytes, 64 * MIB);
        },
    );
}
