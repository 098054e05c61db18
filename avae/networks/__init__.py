"""Networks, likelihoods, and the network that proposes poses."""
