"""Words: `tokenizer` (CLIP's byte-pair encoding) and `templates` (the 79 of StyleCLIP)."""
