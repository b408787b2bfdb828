//! One request at a time, as SDKs without pipelining send them.

use std::io;

use bytes::Bytes;

use super::{End, Route, carry};
use crate::faults::Effect;
use crate::http::{Answer, Request, read_response};

pub(super) async fn relay(route: &Route, mut client: End, mut server: End) -> io::Result<()> {
    while let Some(request) = Request::read(&mut client.stream, &mut client.received).await? {
        let what = match request.header("x-amz-target") {
            Some(target) => target.to_owned(),
            None => format!("{} {}", request.method(), request.target()),
        };
        let effect = match request.method() {
            "GET" | "HEAD" => Effect::None,
            _ => Effect::Lasting,
        };
        let fault = route.note(what, effect);
        let exchange = async |server: &mut End| {
            server.send(&request.raw).await?;
            read_response(request.method(), &mut server.stream, &mut server.received).await
        };
        let refuse = async |_: &mut End| {
            let answer = Answer::error("500 Internal Server Error", "InternalFailure", "a fault of the test");
            io::Result::Ok(Bytes::from(answer.to_bytes(request.method())))
        };
        let response = carry(route, fault, &mut server, exchange, refuse).await?;
        client.send(&response).await?;
    }
    Ok(())
}
