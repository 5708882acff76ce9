"""Names of classes in the configs of earlier versions' run folders."""

import re

RENAMED = {
    "lightning.pytorch.callbacks.EarlyStopping": "segstudy.callbacks.early_stopping.EarlyStopping",
    "segstudy.callbacks.crf.BoundaryRefinement": "segstudy.inference.crf.CRFEvaluation",
    "segstudy.callbacks.guards.FiniteLoss": "segstudy.callbacks.finite_loss.FiniteLoss",
    "segstudy.callbacks.tta.TestTimeAugmentation": "segstudy.inference.tta.TTAEvaluation",
    "segstudy.callbacks.weights.StateDict": "segstudy.callbacks.state_dict.StateDict",
    "segstudy.data.ade20k.ADE20K": "segstudy.data.datasets.ade20k.ADE20K",
    "segstudy.data.augment.Augment": "segstudy.data.transforms.augment.Augment",
    "segstudy.data.effects.Blur": "segstudy.data.transforms.color.Blur",
    "segstudy.data.effects.Erase": "segstudy.data.transforms.color.RandomErasing",
    "segstudy.data.effects.Tint": "segstudy.data.transforms.color.HueSaturation",
    "segstudy.data.folder.Folder": "segstudy.data.folder.datamodule.Folder",
    "segstudy.data.mixing.CopyPaste": "segstudy.data.transforms.mixing.CopyPaste",
    "segstudy.data.mixing.CutMix": "segstudy.data.transforms.mixing.CutMix",
    "segstudy.data.mixing.MixUp": "segstudy.data.transforms.mixing.MixUp",
    "segstudy.data.pet.Pet": "segstudy.data.datasets.pet.Pet",
    "segstudy.data.sbd.VOCSBD": "segstudy.data.datasets.sbd.VOCSBD",
    "segstudy.data.scenes.Scenes": "segstudy.data.datasets.scenes.Scenes",
    "segstudy.data.voc.VOC": "segstudy.data.datasets.voc.VOC",
}
"""Each `_target_` of an earlier version, and the class that it is now."""


def with_current_names(text: str) -> str:
    """The text of a run's config.yaml with the present name of each class that was renamed."""
    return re.sub(r"(?<=_target_: )[\w.]+", lambda found: RENAMED.get(found[0], found[0]), text)
