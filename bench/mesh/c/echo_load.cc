// echo_load TARGET CONNECTIONS SECONDS RATE: unary gRPC calls of 16 bytes, over as many channels as connections.
//
// RATE 0 is a closed loop: each connection makes its next call when it has the answer, as `fortio load -grpc -qps 0 -c N`.
// Otherwise so many calls a second, spread evenly over the connections, whether or not the one before is answered; a
// call's latency counts from when it was due, so that a stall is not left out (coordinated omission).
#include "echo.grpc.pb.h"
#include "timings.h"
#include <atomic>
#include <grpcpp/grpcpp.h>
#include <memory>
#include <string>
#include <sys/prctl.h>
#include <thread>
#include <vector>

constexpr int64_t WARM_UP = 500'000'000, PATIENCE = 20'000'000'000;

struct Call {
    size_t channel;
    int64_t due;
    grpc::ClientContext context;
    echo::Message response;
    grpc::Status status;
    std::unique_ptr<grpc::ClientAsyncResponseReader<echo::Message>> reader;
};

struct Load {
    std::vector<std::unique_ptr<echo::Echo::Stub>> stubs;
    grpc::CompletionQueue queue;
    echo::Message request;
    std::atomic<size_t> made{0};

    Load(const std::string &target, int connections) {
        request.set_payload(std::string(16, 'x'));
        for (int i = 0; i < connections; i++) {
            grpc::ChannelArguments arguments;
            arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1); // a connection of its own
            auto channel = grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
            if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
                fprintf(stderr, "connection %d to %s failed\n", i, target.c_str());
                exit(1);
            }
            stubs.push_back(echo::Echo::NewStub(channel));
        }
    }

    void call(size_t channel, int64_t due) {
        auto *one = new Call{};
        one->channel = channel;
        one->due = due;
        one->context.set_deadline(std::chrono::system_clock::now() + std::chrono::nanoseconds(PATIENCE));
        made++;
        one->reader = stubs[channel]->AsyncPing(&one->context, request, &queue);
        one->reader->Finish(&one->response, &one->status, one);
    }
};

static void pace(Load &load, double rate, int64_t start, int64_t end) {
    prctl(PR_SET_TIMERSLACK, 1);
    for (size_t n = 0;; n++) {
        int64_t due = start + (int64_t)(n * 1e9 / rate);
        if (due >= end) {
            return;
        }
        sleep_until(due);
        load.call(n % load.stubs.size(), due);
    }
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: echo_load TARGET CONNECTIONS SECONDS RATE\n");
        return 2;
    }
    double seconds = atof(argv[3]), rate = atof(argv[4]);
    Load load(argv[1], atoi(argv[2]));
    std::vector<int64_t> taken;
    taken.reserve(1 << 20);
    size_t errors = 0, answered = 0, in_time = 0;
    std::string first_error;
    int64_t start = now_ns(), warm = start + WARM_UP, end = warm + (int64_t)(seconds * 1e9);
    std::atomic<bool> paced{rate == 0};
    std::thread pacer, marker(mark, warm, end);
    if (rate > 0) {
        pacer = std::thread([&] {
            pace(load, rate, start, end);
            paced = true;
        });
    } else {
        for (size_t i = 0; i < load.stubs.size(); i++) {
            load.call(i, now_ns());
        }
    }
    void *tag;
    bool ok;
    while (!paced || answered < load.made) {
        auto status = load.queue.AsyncNext(&tag, &ok, std::chrono::system_clock::now() + std::chrono::milliseconds(100));
        if (status != grpc::CompletionQueue::GOT_EVENT) {
            continue;
        }
        std::unique_ptr<Call> done((Call *)tag);
        int64_t time = now_ns();
        answered++;
        if (!done->status.ok()) {
            first_error = errors++ ? first_error : done->status.error_message();
        } else if (done->due >= warm && (time <= end || rate > 0)) { // a late answer to what was due counts, too
            in_time += time <= end;
            taken.push_back(time - done->due);
        }
        if (rate == 0 && time < end && errors < 1000) {
            load.call(done->channel, now_ns());
        }
    }
    marker.join();
    if (pacer.joinable()) {
        pacer.join();
    }
    if (errors) {
        fprintf(stderr, "%zu calls failed: %s\n", errors, first_error.c_str());
    }
    print_timings(taken.data(), taken.size(), (double)in_time / seconds, in_time, errors);
    return taken.empty();
}
