"""What it adds up to: the event pipeline and its figures. Empty until it exists; may import services and what is below it."""
