"""What is sampled: energies, priors and likelihoods, a family a file."""
