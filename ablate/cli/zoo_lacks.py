"""What docs/zoo.md says of families without a table, and of parts of families that are refused."""

# Entries of the mapping whose models are those of another.
ALIASES = {
    "gpt-sw3": "gpt2",
    "llama4": "llama4_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}
RECURRENT = {
    *("bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear"),
    *("lara_mini", "mamba", "mamba2", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_5_text"),
    *("qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next", "qwen4_exp", "qwen4_exp_text", "recurrent_gemma"),
    *("rwkv", "xlstm", "zamba", "zamba2"),
}
RESIDUAL = "a table for its residual multiplier"
LACKS = {
    "axk1": "a norm after the experts that dense layers do not have",
    "axk2": "a sparse indexer; a gated norm",
    "beam": "a residual scaled by the depth",
    "cpmant": "a position bias and embeddings by segment",
    "deepseek_v32": "a sparse indexer",
    "deepseek_v4": "a sparse indexer; compressed attention; a table for its hyper-connections",
    "diffllama": "differential attention",
    "doge": "a dynamic mask; residual weights by channel",
    "dory": "norms on the sphere; looped layers",
    "dots3_note": "a sparse indexer",
    "dots3_note_text": "a sparse indexer",
    "gemma3n_text": "AltUp; a table for its per-layer embeddings and shared keys and values",
    "gemma4_text": "a table for its per-layer embeddings and shared keys and values",
    "gemma4_unified_text": "a table for its per-layer embeddings and shared keys and values",
    "glm_moe_dsa": "a sparse indexer",
    "granite": RESIDUAL,
    "granite_swa": RESIDUAL,
    "granitemoe": RESIDUAL,
    "granitemoe_swa": RESIDUAL,
    "granitemoeshared": RESIDUAL,
    "hrm_text": "looped layers of two clocks",
    "hy_v4": "a sparse indexer; a table for its hyper-connections",
    "hyperclovax": RESIDUAL,
    "inkling2_loop_text": "convolutions on the branches; scores by relative position; looped layers",
    "inkling2_text": "convolutions on the branches; scores by relative position",
    "inkling_text": "convolutions on the branches; scores by relative position",
    "jetmoe": "a mixture of attention heads; a bias after the experts",
    "kolibri1": "a selection bias on the logits of the router",
    "longcat_flash": "experts that do nothing; two attentions in a layer",
    "mimo_v2_flash": "a width of values and a multiplier of values",
    "minicpm3": RESIDUAL,
    "minimax_m3_vl_text": "a block-sparse indexer",
    "modernbert-decoder": "a first layer without a norm; a transform before the head",
    "phimoe": "SparseMixer's routing",
    "zaya": "queries, keys and values through a convolution; a router of several layers",
    # recurrent and hybrid
    "bailing_hybrid": "KDA with a bounded gate",
    "falcon_h1": "Mamba-2 and attention side by side; multipliers inside of both",
    "falcon_mamba": "Mamba-1",
    "granitemoehybrid": RESIDUAL,
    "jamba": "Mamba-1",
    "lara_mini": "a table for its window beside the gated delta rule",
    "mamba": "Mamba-1",
    "mamba2": "layers of a mixer alone",
    "nemotron_h": "layers of a mixer or a feed-forward alone",
    "qwen3_next": "a table for projections that are kept by key head",
    "qwen4_exp": "a sparse indexer; n-gram embeddings by its own hash; hyper-connections of its own",
    "qwen4_exp_text": "a sparse indexer; n-gram embeddings by its own hash; hyper-connections of its own",
    "recurrent_gemma": "RG-LRU",
    "rwkv": "RWKV-4",
    "xlstm": "mLSTM",
    "zamba": "Mamba-1; shared attention blocks",
    "zamba2": "shared attention blocks with adapters",
}
# Configs of a family with a table that are refused, in a line.
SAID = {
    "cohere": "`use_qk_norm`",
    "cohere2_moe": "dense layers first; means over shared experts",
    "dbrx": "gates divided by another norm than their sum",
    "falcon": "all but 7B: ALiBi, and the new architecture",
    "laguna": "heads that differ by layer; a soft-cap in the router",
    "mpt": "`qk_ln`, prefixes",
    "opt": "the 350M, whose embedding is projected",
    "qwen2_moe": "a window",
    "qwen3_moe": "a window",
    "seed_oss": "a bias of the output projection alone",
    "smollm3": "a window",
    "stablelm": "the 12B, whose heads have norms of their own",
}
OTHER_KINDS = {
    "encoders, or the decoder half of an encoder-decoder": (
        "bart bert bert-generation big_bird bigbird_pegasus blenderbot blenderbot-small camembert "
        "data2vec-text electra ernie marian mbart megatron-bert mvp pegasus plbart prophetnet rembert roberta "
        "roberta-prelayernorm roc_bert roformer trocr whisper xlm xlm-roberta xlm-roberta-xl xmod"
    ).split(),
    "vision, audio or whole multimodal models": (
        "emu3 fuyu gemma3 gemma3n gemma4 gemma4_unified gemma4_assistant gemma4_unified_assistant git "
        "got_ocr2 mllama moshi moss_transcribe_diarize musicgen musicgen_melody phi4_multimodal"
    ).split(),
    "others": "blt reformer xlnet".split(),
}
