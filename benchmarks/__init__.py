"""Every published figure is one command here; results/ keeps what they gave, with the recipe."""
