"""The rejected as a tool: listed, searched, mended by a declared patch, and replayed, each once."""
