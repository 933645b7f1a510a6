"""Can it be trusted? Measurements that are compared with what should be."""
