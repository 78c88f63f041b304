# The image: the program, the libraries of a distroless base, and nothing else. No shell, no root.
#
#   docker build --tag claviger .
#
# Both stages are of the same Debian, so that the program finds the C library that it was linked with.
FROM rust:1.95-slim-trixie AS build
WORKDIR /src

# First the dependencies alone, under an empty program: as long as the lock file stays, this layer is not built again.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && cp src/main.rs build.rs \
    && touch src/lib.rs \
    && cargo build --locked --release \
    && rm -r src build.rs

COPY build.rs ./
COPY proto proto
COPY migrations migrations
COPY src src
# What is older than the empty program would not be built.
RUN find build.rs proto migrations src -exec touch {} + \
    && cargo build --locked --release \
    && install -D --mode 0755 target/release/claviger /image/usr/local/bin/claviger \
    && install --directory --mode 0700 --owner 65532 --group 65532 /image/var/lib/claviger/data

FROM gcr.io/distroless/cc-debian13:nonroot
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Claviger" \
      org.opencontainers.image.description="A gRPC service that issues, restricts, lists, rotates, deletes and validates API keys" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /image /
# Seen from here, ./data is the data folder: the command line finds the administrator's key in it.
WORKDIR /var/lib/claviger
# By number: Kubernetes cannot tell that a name is not root.
USER 65532:65532
EXPOSE 50051 50052
ENTRYPOINT ["/usr/local/bin/claviger"]
