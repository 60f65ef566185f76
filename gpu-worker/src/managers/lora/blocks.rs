//! Weights by block name parts of the UNet that exist.

use std::collections::BTreeSet;

use engine::lora::BaseTensor;
use shared::config::edit_distance;

/// A block that the base does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownBlock {
    /// As it was named.
    pub block: String,
    /// The one that it is most like.
    pub nearest: Option<String>,
}

/// Whether every one of these blocks holds a module of the UNet. An empty path is the whole.
///
/// # Errors
/// The first that does not.
pub fn check_blocks<'b>(blocks: impl Iterator<Item = &'b String>, base: &[BaseTensor]) -> Result<(), UnknownBlock> {
    let mut blocks = blocks.filter(|block| !block.is_empty()).peekable();
    if blocks.peek().is_none() {
        return Ok(());
    }
    let known = known(base);
    let unknown = blocks.find(|block| !known.contains(block.as_str()));
    unknown.map_or(Ok(()), |block| Err(UnknownBlock { block: block.clone(), nearest: nearest(block, &known) }))
}

/// Every path that modules of the UNet lie under, their own included.
fn known(base: &[BaseTensor]) -> BTreeSet<&str> {
    let modules = base
        .iter()
        .filter(|tensor| matches!(tensor.component.as_str(), "unet" | "transformer"))
        .filter_map(|tensor| tensor.name.rsplit_once('.').map(|(path, _)| path));
    let above = |path| std::iter::successors(Some(path), |path: &&str| path.rsplit_once('.').map(|(above, _)| above));
    modules.flat_map(above).collect()
}

fn nearest(block: &str, known: &BTreeSet<&str>) -> Option<String> {
    let distance = |path: &&&str| (edit_distance(block, path), path.len());
    known.iter().min_by_key(distance).map(|path| (*path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_modules_or_is_named_with_the_one_that_was_meant() {
        let tensor = |component: &str, name: &str| BaseTensor {
            component: component.into(),
            name: name.into(),
            shape: vec![1],
            bytes: 4,
        };
        let base = [
            tensor("unet", "down_blocks.1.attentions.0.proj_in.weight"),
            tensor("text_encoder", "encoder.layers.0.mlp.fc1.weight"),
        ];
        let check = |blocks: &[&str]| {
            let blocks: Vec<String> = blocks.iter().map(|block| (*block).to_owned()).collect();
            check_blocks(blocks.iter(), &base)
        };
        assert_eq!(check(&["", "down_blocks", "down_blocks.1.attentions.0.proj_in"]), Ok(()));
        let wrong = check(&["down_blocks", "down_block.1"]).unwrap_err();
        assert_eq!((wrong.block.as_str(), wrong.nearest.as_deref()), ("down_block.1", Some("down_blocks.1")));
        assert!(check(&["encoder.layers.0"]).is_err(), "blocks are the UNet's");
    }
}
