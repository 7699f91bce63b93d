"""What fairseq loads with `--user-dir`: the paper's architecture. Not a fork."""

import torch
from fairseq.models import register_model_architecture
from fairseq.models.transformer_lm import base_lm_architecture

# bfloat16 or TF32 inside float32 products where the processor or GPU has it, as heads are trained. In training only:
# states are in full float32.
torch.set_float32_matmul_precision("medium")


@register_model_architecture("transformer_lm", "transformer_lm_wikibpe")
def transformer_lm_wikibpe(model) -> None:
    """Fill what the command line leaves open with the paper's base LM (`docs/paper.md#base-lm`).

    Pre-norm, ReLU, sinusoidal positions, no LayerNorm after the last layer, and an output embedding of its own without
    a bias: 16 layers, width 1024, 269,828,096 parameters with the paper's 33,344 types.
    """
    paper = {"decoder_layers": 16, "decoder_embed_dim": 1024, "decoder_ffn_embed_dim": 4096}
    paper |= {"decoder_attention_heads": 8, "dropout": 0.3, "attention_dropout": 0.1, "activation_dropout": 0.1}
    paper |= {"no_decoder_final_norm": True, "share_decoder_input_output_embed": False}
    for name, value in paper.items():
        setattr(model, name, getattr(model, name, value))
    base_lm_architecture(model)
