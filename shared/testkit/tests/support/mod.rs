use testkit::Function;
use testkit::world::binary;

/// The sample, which cargo builds with the tests.
pub(crate) fn sample() -> Function {
    Function::new(binary("examples/sample"))
}
