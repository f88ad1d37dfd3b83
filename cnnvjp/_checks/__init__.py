"""Between a public function and its core: what it checks, and how it calls."""
