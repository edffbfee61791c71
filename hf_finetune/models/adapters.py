"""Low-rank adapters (LoRA) through peft: put in before training, merged into the weights after it.

`pretrained` adds them; `finetuning` merges them, so that what a run saves opens anywhere.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.errors import ModelError
from hf_finetune.models.anatomy import head_names
from hf_finetune.models.processors import try_out

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from hf_finetune.models.pretrained import LoraOptions


def add_adapters(model: PreTrainedModel, options: LoraOptions, example: Tensor) -> None:
    """Puts adapters beside linear layers; from then on only they and the head are trained.

    Args:
        model: Changed in place; its answers stay the same at first.
        options: The option `model.lora`.
        example: A batch of one for the model, of any content, to see that adapters take effect.

    Raises:
        ModelError: peft is missing, a name fits no linear layer, or the network goes past the
            adapters (WavLM reads its weights without calling the layers).
    """
    import torch

    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ModelError(
            "model.lora: peft is not installed. Install it with: pip install 'hf_finetune[lora]'"
        ) from error
    head = head_names(model)  # which is trained as a whole
    linear = [
        name
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and f"{name}.weight" not in head
    ]
    targets: list[str] = []
    for ending in options.target_modules:
        found = [name for name in linear if name == ending or name.endswith(f".{ending}")]
        if not found:
            ends = sorted({name.rpartition(".")[2] for name in linear})
            raise ModelError(
                f"model.lora.target_modules: no linear layer of {type(model).__name__} is called "
                f"{ending!r}. It has: {', '.join(ends) or 'none'}."
            )
        targets += found
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=sorted(set(targets)),
    )
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in head or ".lora_" in name)
    _check_use(model, example)


def _check_use(model: PreTrainedModel, example: Tensor) -> None:
    idle = {name for name, part in model.named_modules() if hasattr(part, "lora_A")}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: idle.discard(name))
        for name in sorted(idle)
    ]
    try_out(model, example)
    for hook in hooks:
        hook.remove()
    if idle:
        raise ModelError(
            f"model.lora.target_modules: {type(model).__name__} doesn't call {sorted(idle)[0]} and "
            f"{len(idle) - 1} others, so adapters there would do nothing. Name other layers, or "
            "freeze a part of the model instead."
        )


def merge_adapters(model: nn.Module) -> None:
    """Adds what adapters have learnt to the weights beside them, and takes them out."""
    if not hasattr(model, "peft_config"):
        return
    for name, part in list(model.named_modules()):
        if hasattr(part, "lora_A"):
            part.merge()
            parent, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(parent), own_name, part.get_base_layer())
    del model.peft_config
