"""The embedded model of ordinary English: a small Llama trained on public-domain novels."""
