"""The untrained reference dual encoder: a small CLIP in Hugging Face format."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from aligned_vq.reference.initial_weights import sinusoids, start_local

IMAGE_SIDE_PX = 144
PATCH_PX = 16
VISION_WIDTH = 192
VISION_BLOCKS = 6
TEXT_WIDTH = 128
TEXT_BLOCKS = 3
EMBEDDING_WIDTH = 128
CONTEXT_TOKENS = 40
VOCABULARY_SIZE = 700
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(captions: Sequence[str]) -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE over captions: any text has tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=END,  # as CLIP's: the text's embedding is that of its first end token
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def build_image_processor() -> CLIPImageProcessorPil:
    """CLIP's settings at the model's size."""
    side = IMAGE_SIDE_PX
    return CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )


def build_dual_encoder(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> CLIPModel:
    """Random weights, float32; the vision tower starts as the reference LLaVA's does."""
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 4 * TEXT_WIDTH,
            "num_hidden_layers": TEXT_BLOCKS,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT_TOKENS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "projection_dim": EMBEDDING_WIDTH,
        },
        vision_config={
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 4 * VISION_WIDTH,
            "num_hidden_layers": VISION_BLOCKS,
            "num_attention_heads": VISION_WIDTH // 48,
            "image_size": IMAGE_SIDE_PX,
            "patch_size": PATCH_PX,
            "projection_dim": EMBEDDING_WIDTH,
        },
        projection_dim=EMBEDDING_WIDTH,
    )
    model = CLIPModel(config).float()
    tower = model.vision_model
    with torch.no_grad():
        side = IMAGE_SIDE_PX // PATCH_PX
        tower.embeddings.position_embedding.weight[1:] = sinusoids(side, VISION_WIDTH)
        tower.embeddings.patch_embedding.weight.normal_(std=0.04)
        for layer in tower.encoder.layers:
            start_local(layer.self_attn)
        model.visual_projection.weight.normal_(std=VISION_WIDTH**-0.5)
        model.text_projection.weight.normal_(std=TEXT_WIDTH**-0.5)
    return model
