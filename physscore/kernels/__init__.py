"""How one step is made: Langevin and Hamiltonian kernels, their metrics, and the two loops that run them."""
