"""A model behind HTTP: images in, label maps or numbers out; `demo` puts a page before it."""
