"""From text to batches of tokens.

    `--data`   documents (tables: JSON lines, Parquet, data sets by name)
    -> tokenization (bpe, tokenizers) -> token_arrays -> corpus -> batches

and for fine-tuning questions -> prompts (chat, tokenizers) -> questions_corpus -> batches.
"""
