//! Sixty models of the sizes that farms have, whose components are partly shared, on two disks.

/// A part of models.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Component {
    pub(crate) bytes: u64,
    /// Which disk its file is on.
    pub(crate) disk: u64,
}

/// All models; each is a list of components.
#[derive(Debug, Clone)]
pub(crate) struct Library {
    pub(crate) components: Vec<Component>,
    pub(crate) models: Vec<Vec<usize>>,
}

/// Bytes per second of the disks: a local one and a share on the network.
pub(crate) const DISKS: [f64; 2] = [2.0e9, 0.35e9];

const MIB: u64 = 1 << 20;

/// Families with their own diffusion model's size in MiB, the sizes of what their models share, and how many there are.
const FAMILIES: [(u64, &[u64], usize); 4] =
    [(1640, &[160, 235], 22), (4900, &[160, 235, 1320], 26), (11_300, &[160, 235, 4600], 6), (140, &[], 6)];

impl Library {
    /// 22 of the size of SD 1.5, 26 of SDXL, 6 of FLUX in 8 bits and 6 small ones. Every third of a family is on the slow
    /// disk, every fourth brings its own VAE.
    pub(crate) fn of_sixty_models() -> Self {
        let mut library = Self { components: Vec::new(), models: Vec::new() };
        for (own, shared, count) in FAMILIES {
            let shared: Vec<usize> = shared.iter().map(|mib| library.add(mib * MIB, 0)).collect();
            for number in 0..count {
                let disk = u64::from(number % 3 == 2);
                // fine-tunes differ a little in what they left out
                let mut model = vec![library.add((own + 16 * (number as u64 % 5)) * MIB, disk)];
                let own_vae = number % 4 == 3 && !shared.is_empty();
                if own_vae {
                    model.push(library.add(160 * MIB, disk));
                }
                model.extend(shared.iter().skip(usize::from(own_vae)));
                library.models.push(model);
            }
        }
        library
    }

    /// The same with everything on the local disk.
    pub(crate) fn on_one_disk(&self) -> Self {
        let components = self.components.iter().map(|component| Component { disk: 0, ..*component }).collect();
        Self { components, models: self.models.clone() }
    }

    fn add(&mut self, bytes: u64, disk: u64) -> usize {
        self.components.push(Component { bytes, disk });
        self.components.len() - 1
    }

    /// Bytes of all components.
    pub(crate) fn bytes(&self) -> u64 {
        self.components.iter().map(|component| component.bytes).sum()
    }
}

impl Component {
    /// Seconds of reading it.
    pub(crate) fn seconds(&self) -> f64 {
        let disk = usize::try_from(self.disk).ok().and_then(|disk| DISKS.get(disk)).copied().unwrap_or(DISKS[0]);
        self.bytes as f64 / disk
    }
}
