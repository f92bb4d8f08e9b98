pub(super) mod double;
