"""Plans that choose themselves: what can go, what each costs and matters, and the best choice under a budget."""
