"""Text to tokens to batches: a source gives documents, a tokenizer gives numbers, `prepare` keeps them on
disk, `stream` cuts them into batches."""
