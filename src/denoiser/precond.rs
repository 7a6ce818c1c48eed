//! Preconditioning: the scalings around a raw network (Karras et al. 2022, Table 1).
