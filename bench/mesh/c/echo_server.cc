// echo_server ADDRESS: gRPC's C core, callback API. Prints "listening".
#include "echo.grpc.pb.h"
#include <grpcpp/grpcpp.h>

class Service final : public echo::Echo::CallbackService {
    grpc::ServerUnaryReactor *Ping(grpc::CallbackServerContext *context, const echo::Message *request,
                                   echo::Message *response) override {
        response->set_payload(request->payload());
        auto *reactor = context->DefaultReactor();
        reactor->Finish(grpc::Status::OK);
        return reactor;
    }
};

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: echo_server ADDRESS\n");
        return 2;
    }
    Service service;
    grpc::ServerBuilder builder;
    builder.AddListeningPort(argv[1], grpc::InsecureServerCredentials());
    builder.RegisterService(&service);
    auto server = builder.BuildAndStart();
    if (!server) {
        return 1;
    }
    printf("listening\n");
    fflush(stdout);
    server->Wait();
}
