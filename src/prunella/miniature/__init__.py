"""Training of the bundled teacher."""
