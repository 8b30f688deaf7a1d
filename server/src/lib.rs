//! The server: gRPC services, authentication, dispatcher, reaper, operations HTTP
