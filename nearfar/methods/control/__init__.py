"""Methods that learn from interaction: states, actions and what follows."""
