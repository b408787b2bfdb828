//! Black-box tests
