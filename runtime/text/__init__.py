"""Words: `tokenizer`, `templates`, `vocabulary` (which words a model knows), `grammar` (the small ones of options)."""
